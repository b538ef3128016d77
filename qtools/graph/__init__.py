"""The captured program: a torch.export graph with stable value ids, and its framework-free view."""
