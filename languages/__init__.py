"""The sentences that users read, in their language: its choice, its catalogues, its numbers and dates."""
