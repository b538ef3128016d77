"""Why an artifact answers otherwise than its float network, image by image, and how sure that is."""
