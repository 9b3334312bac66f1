/** The answers of the API; see `inspector/methods.py`. */

export interface Session {
  can_write: boolean;
  expires_at: number;
}

export interface ProcessSummary {
  id: string;
  name: string;
  version: string;
  status: string;
  uptime_s: number;
  memory_bytes: number | null;
  num_connections: number;
  num_users: number;
  num_channels: number;
  num_subscriptions: number;
  counters: Record<string, number>;
}

export interface Overview {
  nodes: ProcessSummary[];
  error: string;
  answered_by: string;
}

export interface ChannelList {
  channels: { channel: string; num_subscribers: number }[];
  is_complete: boolean;
  partial: boolean;
}

export interface Position {
  offset: number;
  epoch: string;
}

export interface SubscriptionSummary {
  state: string;
  delivered_offset?: number;
  pending_bytes?: number;
  server_side?: boolean;
}

export interface ConnectionSummary {
  client: string;
  user: string;
  node: string;
  transport: string;
  protocol: string;
  app_name: string;
  app_version: string;
  connected_at: number;
  backlog_bytes: number;
  num_channels: number;
  state: { channels: Record<string, SubscriptionSummary> };
}

export interface ChannelFacts {
  channel: string;
  route: {
    template: string;
    resource: string;
    responders: string[];
    options: Record<string, unknown>;
  };
  position: Position;
  end: { error: string } | null;
  num_subscribers: number;
  subscribers: ConnectionSummary[];
  presence_stats?: { num_clients: number; num_users: number };
  presence?: { user: string; client: string }[];
}

export interface PublicationFacts {
  offset: number;
  time_ms: number;
  size_bytes: number;
  text: string;
  is_cut: boolean;
  tags: Record<string, string>;
  user: string;
  end: { error: string } | null;
}

export interface LogPage {
  publications: PublicationFacts[];
  position: Position;
}

export interface RecordedEvent {
  at: number;
  name: string;
  connection: string;
  user: string;
  channel: string;
  code: number;
  reason: string;
  detail: string;
}

export interface ReasonCount {
  name: string;
  code: number;
  reason: string;
  count: number;
}

export interface EventList {
  events: RecordedEvent[];
  counts: ReasonCount[];
}

export interface UserFacts {
  user: string;
  num_connections: number;
  connections: ConnectionSummary[];
  events: RecordedEvent[];
}

export interface Explanation {
  verdict: string;
  text: string;
  at: number | null;
  node: string;
  connection: string;
  facts: Record<string, unknown>;
}

export interface SlowReaders {
  readers: {
    client: string;
    user: string;
    node: string;
    backlog_bytes: number;
    pending_bytes: number;
    channels: string[];
  }[];
  num_slow: number;
  partial: boolean;
}
