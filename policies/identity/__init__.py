"""Identity: from a credential to a principal; API keys, JSON Web Tokens and their keys."""
