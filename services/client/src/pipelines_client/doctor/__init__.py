"""What `pipelines doctor` looks at: checks by category, run at once, told as text, JSON or a bundle of evidence."""
