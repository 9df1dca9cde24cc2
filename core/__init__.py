"""The vocabulary of tocsin: events and their codec, columns, verdicts, alerts, errors. No I/O lives here."""
