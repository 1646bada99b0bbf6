"""Other distances between the logits of student and teacher than forward KL."""
