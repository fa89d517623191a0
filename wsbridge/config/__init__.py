"""The configuration: one strict YAML file, read into immutable sections.

In the order in which data flows: `compose` turns text into the nodes of a `document`, which know their places; `text`,
`scalars`, `address`, `network`, `path` and `secret` read one value each, `choice` those that have several forms;
`section` is what all sections share, and `model` with `listener`, `route`, `timeouts`, `limits`, `certificate` and
`backend` are the sections with their defaults and their documentation; `reach` and `check` hold the rules between
sections; `load` puts all this together; `sentences` and `problems` are the messages to the user; `schema` is the same
model for editors. Nothing here knows trio, sockets or single kinds of backends: those are handed in as `Kinds`.
"""
