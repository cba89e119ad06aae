"""A provider of alerts: it takes subscriptions and watches Ortege."""
