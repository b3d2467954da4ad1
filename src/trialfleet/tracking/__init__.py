"""What leaves a trial: metrics, results, and their way into MLflow."""
