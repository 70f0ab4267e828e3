"""What the API server is told of ESFineTunes: made from the models, so that nothing is said twice."""
