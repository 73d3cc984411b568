"""The policy file: from YAML text to frozen typed settings, or to every mistake in it.

document     loading: file -> Policy, or all mistakes at once (the only user of pydantic)
source       YAML text -> tree of nodes (the only user of ruamel.yaml)
nodes        the tree, each scalar with its place
mistakes     mistakes and their texts
settings     the settings as types
shapes       shapes of the settings, from their type hints
kind         kinds of scalars
forms        names, globs, headers and words
units        durations, sizes, counts, rates
addresses    addresses, networks, URLs
store_url    the URL of the store
references   checks across several keys
available    keys and values that are not built yet
finishing    last step of loading: paths, secrets
secrets      sources of secrets
schema       JSON Schema of the policy file
"""
