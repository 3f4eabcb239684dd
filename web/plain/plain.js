// The plain client: the integration guide's JavaScript as it stands there, with the host, the token
// and the room filled in, and its handlers written in the obvious way. It uses no SDK and sends
// no join. Open it as plain.html#token=JWT&room=ROOM[&host=HOST:PORT].

const given = new URLSearchParams(location.hash.slice(1));
const jwt = given.get('token');
const roomId = given.get('room') ?? 'lobby';
const host = given.get('host') ?? location.host;
const http = `${location.protocol}//${host}`;
const wss = http.replace(/^http/, 'ws');

// --- 1. Get TURN credentials

const response = await fetch(`${http}/v1/webrtc/turn/credentials`, {
  method: 'POST',
  headers: { 'Authorization': `Bearer ${jwt}` }
});

const { urls, username, credential, ttl } = await response.json();

// --- 2. Create PeerConnection

const pc = new RTCPeerConnection({
  iceServers: [{ urls, username, credential }],
  iceTransportPolicy: 'relay' // enforced by SFU
});

// What the application does with it: send the camera, show what comes.

const media = await navigator.mediaDevices.getUserMedia({ audio: true, video: { width: 640, height: 360 } });
document.getElementById('own').srcObject = media;
for (const track of media.getTracks()) pc.addTrack(track, media);

pc.ontrack = ({ track, streams: [stream] }) => show(stream, track);
pc.onicecandidate = ({ candidate }) => ws.send(JSON.stringify({ type: 'ice-candidate', candidate }));
pc.onconnectionstatechange = () => say(pc.connectionState);

// --- 3. Connect signaling WebSocket

const ws = new WebSocket(
  `${wss}/v1/webrtc/signal?room=${roomId}`,
  ['Bearer', jwt]
);

ws.onmessage = (event) => {
  const msg = JSON.parse(event.data);
  switch (msg.type) {
    case 'offer': handleOffer(msg); break;
    case 'answer': handleAnswer(msg); break;
    case 'ice-candidate': handleICE(msg); break;
    case 'peer-joined': handleJoin(msg); break;
    case 'peer-left': handleLeave(msg); break;
    case 'turn-credentials':
    case 'refresh-credentials':
      updateTURN(msg); // SFU sends refreshed creds at 80% TTL
      break;
    case 'server-draining':
      reconnect(); // SFU shutting down, reconnect to another node
      break;
  }
};

// --- The handlers

async function handleOffer(msg) {
  await pc.setRemoteDescription(msg);
  await pc.setLocalDescription(await pc.createAnswer());
  ws.send(JSON.stringify({ type: 'answer', sdp: pc.localDescription.sdp }));
}

async function handleAnswer(msg) {
  await pc.setRemoteDescription(msg);
}

async function handleICE(msg) {
  await pc.addIceCandidate(msg.candidate);
}

function handleJoin(msg) {
  say(`${msg.peer.name || msg.peer.user_id} joined`);
}

function handleLeave(msg) {
  document.getElementById(msg.peer_id)?.remove();
}

function updateTURN({ urls, username, credential }) {
  pc.setConfiguration({ iceServers: [{ urls, username, credential }], iceTransportPolicy: 'relay' });
}

function reconnect() {
  location.reload();
}

// --- The page

function show(stream, track) {
  let video = document.getElementById(stream.id);
  if (!video) {
    video = Object.assign(document.createElement('video'), { id: stream.id, autoplay: true, playsInline: true });
    document.getElementById('others').append(video);
  }
  video.srcObject = stream;
  stream.onremovetrack = () => stream.getTracks().length === 0 && video.remove();
  say(`receiving ${track.kind}`);
}

function say(text) {
  document.getElementById('status').textContent = text;
}

ws.onclose = ({ code }) => say(`closed (${code})`);
window.__plain = { pc, ws, ttl }; // for tests
