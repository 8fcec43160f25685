"""The bundled small model: its scene generator, its training and its evaluation."""
