"""Reading of requests: path, body, model, route, tokens, and the first content of the answer.

paths           kinds of paths
describe        body -> DescribedRequest: model, stream, user
fields          values of the fields that `describe` reads
json_object     members of a JSON object as raw text; edits in place
multipart       fields of a multipart form; edits in place
routing         path, model and principal -> route
first_content   first content event of a stream
usage           token counts: estimates, sizes, usage in answers
"""
