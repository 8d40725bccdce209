"""The origin: OpenAI-compatible HTTP over the release in force, and over any other that is asked for by name. It does not cache."""
