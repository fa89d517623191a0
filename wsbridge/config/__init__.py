"""The configuration: one strict YAML file, read into immutable sections.

In the order in which data flows: `yaml` turns text into nodes with their places; `types`, `urls` and `secrets` read
single values, `unions` those that have several forms; `base` is what all sections share, and `model`, `listener`,
`route` and `limits` are the sections with their defaults and their documentation; `check`, `risks`, `certificates`
and `owner` check what a single value cannot show; `load` puts all this together; `errors` and `redaction` make the
messages; `effective` writes the settings back; `schema` is the same model for editors. Nothing here imports trio or
single kinds of backends and authentication methods: `registry` passes those in.
"""
