"""What pages share: the frame around them, choices that stay, caches, progress, figures with their words and data, forms made from configurations."""
