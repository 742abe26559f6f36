"""massive_tokens"""
