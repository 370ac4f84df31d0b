"""What a student becomes under the field's losses: small students of the toy language."""
