"""The policy file: from YAML text to frozen typed settings, or to every mistake in it."""
