"""Cardiff: class-conditional pixel diffusion models to study, train, sample, measure and publish."""
