"""What is changed in the weights themselves so that their rounded network answers as the float one does."""
