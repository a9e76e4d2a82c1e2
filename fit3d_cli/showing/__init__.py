"""``fit3d viz`` of pictures, folders and videos: what a backbone sees, in shared colours."""
