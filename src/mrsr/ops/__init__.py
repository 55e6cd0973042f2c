"""Running elsewhere: clusters, results of others, cost estimates."""
