"""The world 'rendered': things on a table that look like product photographs, drawn by Blender's path tracer.

Drawing needs the package `bpy` (the extra `render`); reading and editing such pictures does not.
"""
