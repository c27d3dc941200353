"""Fine-tuning: labelled images and a recipe in, an adapter folder out. Knows no queue, SQL or object store."""
