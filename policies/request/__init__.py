"""What a request asks for: its path, body, model, route, tokens, and the first content of its answer."""
