"""Base beside tuned: verdict with confidence, feature pictures, one HTML page."""
