"""Authentication: which principal a credential proves, and the API keys and issuers that it is checked against."""
