"""Tokens: sizes of a request, estimates, and the usage that engines report.

dialects   fields for tokens, path by path
sizes      bytes of prompt, bound and number of answers
estimate   tokens before they are known, from bytes
edits      edits of a body: request for usage, cap of the answer
strip      removal of usage that the gateway requested from a stream
"""
