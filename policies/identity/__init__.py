"""Identity: from a credential to a principal.

authenticator   credential -> Principal, on the hot path
principal       principal, its rights, and the reasons for a refusal
api_keys        form of an API key and of its record
keyring         creation, rotation and revocation of API keys
tokens          verification of JSON Web Tokens (the only user of pyjwt)
jwt_form        parsing of tokens, without verification
claims          claims of a verified token -> Principal
issuers         issuers with their current keys
jwks            JWK Set -> keys
guessing        limit of failed authentications per address
origin          address of a request for counters
"""
