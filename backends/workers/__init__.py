"""Workers: inference engines that we start as child processes, look after and end.

`supervisor.Supervisor` is the door. It decides; `process.Process` is one child's state machine; `launch.Launcher`
acts (starts, signals, reaps); `guard` ends every group should the gateway itself be killed.
"""
