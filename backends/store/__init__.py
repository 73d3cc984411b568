"""State that all processes and replicas share: memory and Redis behind one small interface (`base.Store`)."""
