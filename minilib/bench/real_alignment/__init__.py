"""`python -m minilib bench alignment --model smollm2`: when preference pays, asked of a real model."""
