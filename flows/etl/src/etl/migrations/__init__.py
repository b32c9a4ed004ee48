"""The warehouse's schema, revision by revision."""
