"""Relay of an answer: from the upstream connection to the client, byte for byte, with a tap that reads along."""
