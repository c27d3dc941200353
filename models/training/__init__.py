"""Fine-tuning: labelled images and a recipe in, an adapter folder out. Knows no queue, no SQL, no object store."""
