"""What we decide: one policy a module, values in, verdict out; plus the policy file and its examples."""
