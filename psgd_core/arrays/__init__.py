"""What the other rooms need of any array library: namespaces, accurate sums, many small matrices, trees."""
