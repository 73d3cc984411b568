"""Keys of identities: JWK sets of issuers, and the file of API keys."""
