"""A call by aiortc through one TURN server, driven by lines of JSON.

argv[1] is {"url", "username", "credential", "want"}. It prints {"offer": SDP}, reads {"answer": SDP}, and when want
messages and want frames of sound and picture have come back, prints what it counted and ends. The peer is asked to echo.
"""

import asyncio
import json
import sys

from aiortc import RTCConfiguration, RTCIceServer, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import AudioStreamTrack, MediaStreamError, VideoStreamTrack


def say(**words):
    print(json.dumps(words), flush=True)


def relayed_only(sdp):
    """aiortc knows no policy: what is not relayed is taken out of its words."""
    return "".join(
        line for line in sdp.splitlines(keepends=True) if not line.startswith("a=candidate:") or " typ relay" in line
    )


async def count(track, got, changed):
    try:
        while True:
            await track.recv()
            got[track.kind] += 1
            changed.set()
    except MediaStreamError:
        pass


async def main():
    conf = json.loads(sys.argv[1])
    server = RTCIceServer(urls=conf["url"], username=conf["username"], credential=conf["credential"])
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[server]))
    pc.addTrack(AudioStreamTrack())
    pc.addTrack(VideoStreamTrack())
    channel = pc.createDataChannel("echo")
    got = {"messages": 0, "audio": 0, "video": 0}
    changed = asyncio.Event()
    readers = []

    @channel.on("open")
    def opened():
        channel.send("0")

    @channel.on("message")
    def message(text):
        got["messages"] += 1
        changed.set()
        channel.send(str(got["messages"]))

    @pc.on("track")
    def track(t):
        readers.append(asyncio.ensure_future(count(t, got, changed)))

    @pc.on("connectionstatechange")
    def state():
        say(state=pc.connectionState)

    await pc.setLocalDescription(await pc.createOffer())
    say(offer=relayed_only(pc.localDescription.sdp))
    line = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    await pc.setRemoteDescription(RTCSessionDescription(json.loads(line)["answer"], "answer"))
    while min(got.values()) < conf["want"]:
        await changed.wait()
        changed.clear()
    say(got=got)
    for reader in readers:
        reader.cancel()
    await pc.close()


asyncio.run(main())
