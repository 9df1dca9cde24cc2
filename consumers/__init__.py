"""The worker and what it is made of, and the alert subscriber. Importing this package loads neither."""
