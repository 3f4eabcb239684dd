// A data channel of ours that lives through reconnects.

import { OramaError } from './errors.js';
import { limits } from './protocol.js';

export interface DataOptions {
  /** true unless said otherwise */
  ordered?: boolean;
  /** Leave out for a reliable channel. */
  maxRetransmits?: number;
  /** Ids of the one to 64 peers to send to; everybody if left out. A peer that joins anew has another id. */
  sendTo?: string[];
}

export type Data = string | ArrayBuffer | ArrayBufferView<ArrayBuffer>;

/** Messages kept while there is no connection; the oldest go first. */
const keep = 256;

/** Sends to every other peer, or to those named; what they send arrives as the room's 'data' events. */
export class DataChannel {
  private channel: RTCDataChannel | null = null;
  private readonly waiting: Data[] = [];
  private ended = false;

  constructor(
    readonly label: string,
    readonly options: DataOptions,
    private readonly forget: (c: DataChannel) => void,
  ) {}

  /** What a connection opens the channel with. */
  get init(): RTCDataChannelInit {
    const { sendTo, ...init } = this.options;
    return sendTo ? { ...init, protocol: `to:${sendTo.join(',')}` } : init;
  }

  get open(): boolean {
    return this.channel?.readyState === 'open';
  }

  /** Bytes not yet handed to the network. */
  get bufferedAmount(): number {
    return this.channel?.bufferedAmount ?? 0;
  }

  /** Sends a message of at most 64 KiB. Without a connection it waits for one. */
  send(data: Data): void {
    if (this.ended) throw new OramaError('closed', 'the channel is closed');
    if (size(data) > limits.dataMessage) throw new OramaError('too_large', 'a message is at most 64 KiB');
    if (this.channel && this.open) return transmit(this.channel, data);
    this.waiting.push(data);
    if (this.waiting.length > keep) this.waiting.shift();
  }

  close(): void {
    this.ended = true;
    this.waiting.length = 0;
    this.channel?.close();
    this.forget(this);
  }

  /** Takes the channel of a new connection. */
  attach(channel: RTCDataChannel): void {
    this.channel = channel;
    channel.onopen = () => {
      if (this.channel !== channel) return;
      for (const data of this.waiting.splice(0)) transmit(channel, data);
    };
  }
}

function transmit(channel: RTCDataChannel, data: Data): void {
  if (typeof data === 'string') channel.send(data);
  else if (data instanceof ArrayBuffer) channel.send(data);
  else channel.send(data);
}

function size(data: Data): number {
  return typeof data === 'string' ? new TextEncoder().encode(data).length : data.byteLength;
}
