"""rotate"""
