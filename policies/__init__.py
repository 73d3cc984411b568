"""Policies: pure decisions, one a module (values in, verdict out), and the policy file with its examples."""
