"""The interface between the control plane and the data plane: tables and verdicts in, events out."""
