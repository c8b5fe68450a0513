"""What a network has learned: attention maps, activations by layer, and the similarity of two layers."""
