"""How `minilib.models.tiny_lm` was trained: documents with questions, a curriculum, a record."""
