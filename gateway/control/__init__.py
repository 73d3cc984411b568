"""The control plane of a process: the policy and its reload, the operator orders, and readiness."""
