"""Reading of requests: path, body, model, route, tokens, and the first content of the answer."""
