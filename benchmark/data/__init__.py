"""The images: what ships, what a user brings, and the streams made of them."""
