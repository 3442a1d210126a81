"""Rewards over HTTP: a small service, its client, and the form in which pictures travel.

The service needs torch, safetensors, starlette and uvicorn, and what the reward itself needs.
"""
