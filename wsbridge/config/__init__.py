"""The configuration: strict YAML in one file or several, read into immutable sections.

In the order in which data flows: `include` finds the files, `yaml_nodes` and `yaml` turn text into values with their
positions, `sources` puts those of several files together, and `defaults` completes the routes; `types`, `urls` and
`secrets` read single values, `unions` those that have several forms; `base` is what all sections share, and `model`,
`listener`, `route`, `limits` and `admin` are the sections with their defaults and their documentation; `check`,
`loops`, `risks`, `certificates` and `owner` check what a single value cannot show; `load` calls all this; `errors` and
`redaction` make the messages; `effective` writes the settings back; `schema` is the same model for editors. Nothing
here imports trio or single kinds of backends and authentication methods: `registry` passes those in.
"""
