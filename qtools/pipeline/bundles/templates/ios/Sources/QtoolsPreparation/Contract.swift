// What contract.json says, as far as an app acts on it; the schema beside it explains every entry.

import Foundation

public enum Filter: String, Codable, Sendable { case nearest, box, bilinear, hamming, bicubic, lanczos }
public enum Rule: String, Codable, Sendable { case pillow8bit = "pillow-8bit" }
public enum Crop: String, Codable, Sendable { case squash, center, border }
public enum Colours: String, Codable, Sendable { case rgb = "RGB", bgr = "BGR" }
public enum Layout: String, Codable, Sendable { case nhwc = "NHWC", nchw = "NCHW" }
public enum Element: String, Codable, Sendable { case uint8, float32 }
public enum Kind: String, Codable, Sendable { case tensor, image }
public enum Meaning: String, Codable, Sendable { case logits, probabilities, boxes }

/// How a picture becomes the input.
public struct Preparation: Codable, Sendable {
    public let size: [Int]
    public let layout: Layout
    public let colours: Colours
    public let resize: Filter
    public let rule: Rule
    public let crop: Crop
    public let keep: Double
    public let fill: [UInt8]
}

/// What goes in. `table` holds what every byte becomes, per channel in the order of the tensor.
public struct Input: Codable, Sendable {
    public let name: String
    public let shape: [Int]
    public let dtype: Element
    public let kind: Kind
    public let table: [[Double]]
}

/// What comes out. A code is worth (code - zeroPoint) x scale; floats are worth themselves.
public struct Output: Codable, Sendable {
    public let name: String
    public let shape: [Int]
    public let dtype: Element
    public let meaning: Meaning
    public let scale: Double?
    public let zeroPoint: Int?
    public let byLabel: Bool
}

/// The grid that a detector's answers start from: `maps` holds rows and columns of each.
public struct Anchors: Codable, Sendable {
    public let maps: [[Int]]
    public let ratios: [[Double]]
    public let lowest: Double
    public let highest: Double
}

/// How a detector's two outputs become objects.
public struct Decoding: Codable, Sendable {
    public let anchors: Anchors?
    public let variances: [Double]
    public let background: Int
    public let overlap: Double?
    public let least: Double
    public let candidates: Int
    public let most: Int
}

/// The artifact.
public struct File: Codable, Sendable {
    public let name: String
    public let format: String
    public let sha256: String
}

/// All of it.
public struct Contract: Codable, Sendable {
    public let schemaVersion: Int
    public let preparation: Preparation
    public let labels: [String]
    public let input: Input
    public let output: Output
    public let boxes: Output?
    public let decoding: Decoding?
    public let artifact: File

    /// All that comes out: of a detector the classes and the boxes.
    public var outputs: [Output] { boxes.map { [output, $0] } ?? [output] }

    /// The version that this code reads.
    public static let version = 2

    /// Reads the content of contract.json; throws where an entry is missing, or says what this code does not know.
    public init(json: Data) throws {
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        self = try decoder.decode(Contract.self, from: json)
        guard schemaVersion == Contract.version else { throw Unreadable(version: schemaVersion) }
    }
}

/// A contract of another version.
public struct Unreadable: Error, CustomStringConvertible {
    public let version: Int
    public var description: String { "contract.json is of version \(version), and this code reads \(Contract.version)" }
}
